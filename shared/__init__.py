"""What server, client and simulations share; data flows left to right.

data -> models -> algorithms.contribute -> privacy -> protocol ==> absorb -> evaluation

- `data`: interactions in, cleaned, indexed, split into histories and queries
- `models`: scores from global tensors and the asking user's own history
- `algorithms`: the device half and the server half of one learning method, side by side
- `privacy`: the plan of a private run, noise, accounting, the record of what was spent
- `evaluation`: pure functions on ranked items
- `config`, `protocol`: settings of a run; the wire
- `errors`, `randomness`: the ground floor
"""
