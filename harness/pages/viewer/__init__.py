"""The browser viewer of `harness view`."""
