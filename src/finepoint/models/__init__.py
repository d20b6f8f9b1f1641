"""Pretrained weights, backbones, the classifier and its package."""
