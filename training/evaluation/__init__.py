"""What a checkpoint is worth: pictures made for held-out people, read by judges that never guided its training."""
