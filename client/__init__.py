"""The client: the courier that carries orders, and the participant that answers them."""
