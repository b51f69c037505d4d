"""Tables and pages made of score cards; every name and text in them is treated as untrusted."""
