"""Plans: schedules of `rebirth run` made from a net, as the paper goes or as a target needs it."""
