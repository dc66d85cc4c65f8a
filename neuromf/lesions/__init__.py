"""Image-mask pairs of a rare pathology: encoding, LoRA fine-tuning, sampling, segmentation."""
