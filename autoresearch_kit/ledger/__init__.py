"""The only code that starts git: attempts as commits under refs/ark/, kept ones also on a branch."""
