//! The daemon as a process, as a user runs it: with its config file, its data folder and nothing else, or with the embedded Kafka of
//! librdkafka. What needs a real Kafka or a real MQTT broker is under `tests/real`.

mod as_they_are;
mod bad_input;
mod crashes;
mod dead_letters;
mod emulated_printer;
mod house;
mod kafka;
mod printers;
mod privacy;
mod reload;
mod terminals;
mod tls;
#[cfg(feature = "demo")]
mod trip;
