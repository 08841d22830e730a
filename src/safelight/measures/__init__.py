"""What can be said of pictures in numbers: distances, their colours, what they show."""
