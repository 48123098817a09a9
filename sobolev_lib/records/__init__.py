"""What a run leaves and how it is judged: ledger, states, sweep, summary, claims, options."""
