"""The commands of `producer`; `producer.render` prints the answers."""
