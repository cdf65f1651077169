"""Train a reranker: mine hard negatives, fine-tune, distil, calibrate, promote. Nothing here runs while answering."""
