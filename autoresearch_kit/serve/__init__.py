"""What an agent may ask `ark` for: the verbs, once, and the process that measures for them."""
