"""The server learns the sum of the devices' vectors modulo 2^32, or nothing.

session -> graph -> keys | shamir | masks -> messages -> circle -> device | server

- `session`: the public terms of one sum: roster, thresholds, what is signed
- `circle`: what follows from the list of keys: who is joined, when to abort
- `keys`: fresh keys of one device for one sum, signatures, boxes only one neighbour opens
- `graph`: who masks with whom, from public randomness
- `shamir`: a secret in shares of which any `threshold` give it back
- `masks`: keystreams added to and taken from vectors
- `messages`: what travels, as bytes of strict length
- `device`, `server`: the two state machines
- `traffic`: what a sum costs one device in bytes

Phases (each a message up and an answer down): advertise keys -> share secrets -> send the masked
vector -> vote on what was seen -> unmask. Source: Bonawitz et al. 2017 (masks, shares, the vote),
Bell et al. 2020 (neighbours).

What is promised. Let at most `colluders` devices of the roster, at random places of the ring,
work with the server, which may lie, drop, reorder and show devices different things. If an honest
device opens anything, then more than half of all honest devices have signed the same list of keys,
of sharers and of survivors, no other lists can be signed in that round, there are `minimum`
survivors, and (but for a chance of 2^-39) the honest survivors hang together: the server learns
their one sum and nothing else about their vectors. Below the thresholds nothing is opened.

What is not promised. The roster is taken as true: who enrols a majority of false devices gets
around any sum. A device may send any vector it likes (bounds hold for honest devices). A server
that makes its colluders' keys anew until the ring suits it gains a factor of its tries on 2^-39.
Who took part is not hidden. A device must not take part twice in one (run, round).
"""
