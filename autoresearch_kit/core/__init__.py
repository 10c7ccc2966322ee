"""Pure: no process, no git, no clock."""
