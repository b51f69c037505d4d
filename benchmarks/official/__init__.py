"""Our numbers and times against the published boards and the installed original tools, in one run."""
