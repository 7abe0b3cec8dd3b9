"""What the processes of one gateway say to each other, and over what."""
