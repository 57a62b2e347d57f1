"""Central baselines: what a recommender scores when somebody does collect every history.

Trained in one place on the whole training part of a split: no federation, no clipping, no noise, no
protection of anyone. They exist to be compared with, and nothing that is released comes from them.

Training interactions -> `fit` -> a scorer of histories. No scorer keeps a vector of a user: each
works from the history it is asked with, so a user who trained nothing is scored as well.

zoo          `BASELINES`: name -> config and fit, and the settings tried on validation
choice       which of those settings: the best on validation
incidence    histories as a 0/1 matrix, and its Gram matrix
neighbours   popularity and item-kNN
ease         a closed-form item-item regression
ials         implicit alternating least squares
bpr          pairwise ranking by matrix factorisation
sasrec       a small self-attention encoder with a softmax over the whole catalogue
"""
