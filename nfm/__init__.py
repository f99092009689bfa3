"""PyTorch, Petastorm and Horovod: the model, the stream of batches, the distributed step."""
