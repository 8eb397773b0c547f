"""How pixels change: every way of normalizing behind one protocol, generator, guard, colour table or classical."""
