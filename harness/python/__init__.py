"""Call the commands as functions that return objects, or from a trainer's callback."""
