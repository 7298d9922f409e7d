"""The method: private bodies, lent heads, feature space transforms, gate, mixture, guard; pure."""
