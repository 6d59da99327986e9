"""How alike two pictures are: what export, training and bench measure with. Never part of the runtime."""
