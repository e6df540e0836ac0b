"""Import of weights from other tools, safely; export in the formats that they read."""
