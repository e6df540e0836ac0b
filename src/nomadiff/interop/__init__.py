"""Other people's weights: in, safely; and out, in the forms other tools read."""
