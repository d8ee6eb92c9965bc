"""Training: what `workflows.finetune` is made of."""
