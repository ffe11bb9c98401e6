"""What every feature shares: settings, roll-out, guard, census, forks and exits. Imports no feature."""
