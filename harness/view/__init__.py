"""`harness view`: a local, read-only web page over a results folder."""
