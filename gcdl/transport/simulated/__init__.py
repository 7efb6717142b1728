"""Messages in a simulation: all workers live in this process, and everything takes virtual seconds."""
