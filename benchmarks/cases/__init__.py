"""Bad files and bad servers, each with the value it gave before, the right one, and the one it gives now."""
