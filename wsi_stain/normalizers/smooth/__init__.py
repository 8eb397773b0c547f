"""What is smooth in a change of colour, around each pixel: filters that a generator's passes go through."""
