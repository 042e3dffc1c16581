"""The paper's ablations: 80 epochs of ResNet18, with and without its two ingredients."""
