"""Photos from raw files to tensors: checks, orientation, crops, the store, augmentation."""
