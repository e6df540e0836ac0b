"""One file a verb: what the command line does, as functions."""
