"""Running an agent: a model is called turn by turn, and every step is stored before it is shown."""
