"""What customers are told, when, and by which way it goes out: mail or webhook."""
