"""The command line: the only place that prints, reads argv, exits and runs an event loop."""
