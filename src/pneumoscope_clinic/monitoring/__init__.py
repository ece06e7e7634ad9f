"""Watching images, answers, readers and the queue: drift, agreement, alarms, dashboard and report."""
