"""Attacks on a run's mechanism through its real code: `fedrec audit --attack`.

target      what is attacked: settings, sizes, the claim
canaries    users and interactions made to be found
planting    the real algorithm, wrapped to plant them
transcript  what the attacker and the auditor saw
rehearsal   one run of the real federation with canaries in it
noise       releases minus what they hide
conformance, planted, statistics   the three layers, each a list of `checks`
verdict     the layers together; `findings` puts them in words

Threat model. The attacker sees everything that leaves the trusted part: every message of every
device where devices add the noise, every noised sum where the server or all devices together do.
It knows the settings, all other users' data, and chooses the canaries' contributions freely within
what a device could send; it does not know the coins that put canaries in, nor the noise. The
auditor of the first layer also sees contributions before they are clipped.

The people are made: neither the guarantee nor any check depends on who else takes part, so no real
data is read.
"""
