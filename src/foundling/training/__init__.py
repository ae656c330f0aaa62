"""The one training loop: objectives, optimizers, schedules, checkpoints, and the pretraining stage."""
