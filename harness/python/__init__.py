"""The commands as functions that return objects, and a callback for trainers."""
