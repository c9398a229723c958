"""The commands of `producer`; `producer.render` and the modules beside it print the answers."""
