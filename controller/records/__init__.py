"""What the station writes down: the journal that motion depends on, and the outbox that the cloud drains."""
