"""Form preference pairs from answers and rewards, and count what they were made from."""
