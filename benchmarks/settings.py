"""What every contestant trains, as far as it offers it.

An NFM with one hidden layer, batch norm on the pooled vector and on the layer, dropout after both,
logistic loss.
"""

HIDDEN = 64
DROPOUT = 0.2
EMBEDDING_STD = 0.01
LEARNING_RATE = 0.01
BATCH = 4096
THREADS = 2
