//! What changed between the config that runs and one that was read anew, key by key.

use super::{Config, GatewaySection, Http, Kafka, Log, Mqtt, StoreSection};

/// The keys that changed, in the order of the config.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The running daemon takes these over.
    pub live: Vec<&'static str>,
    /// These stay as they were until the daemon is started anew.
    pub restart: Vec<&'static str>,
    /// How Kafka is reached is among the live ones.
    pub kafka: bool,
    /// How the MQTT broker is reached is among the live ones.
    pub mqtt: bool,
}

impl Changes {
    /// Compares. The config that comes with it is the one to go on with: `newer`, but for the keys that need a restart.
    pub fn between(running: &Config, newer: &Config) -> (Config, Changes) {
        let (mut merged, mut changes) = (newer.clone(), Changes::default());
        // Each field is named here and below: whoever adds one has to say what a reload does with it.
        let Config {
            gateway,
            store,
            http,
            mqtt,
            serial,
            kafka,
            delivery,
            behind_dead,
            downlinks,
            dialect,
            board,
            kitchen,
            language,
            printers,
            strict_orders,
            log,
        } = &mut merged;

        let GatewaySection { id, restaurant_ids, time_zone, business_day_starts } = gateway;
        changes.stays("gateway.id", &running.gateway.id, id);
        changes.live("gateway.restaurant_ids", &running.gateway.restaurant_ids, restaurant_ids);
        changes.stays("gateway.time_zone", &running.gateway.time_zone, time_zone);
        changes.stays("gateway.business_day_starts", &running.gateway.business_day_starts, business_day_starts);

        let StoreSection { data_dir, max_queued, max_queued_bytes, remember_days, journal_days, journal_bytes, min_free_bytes, .. } = store;
        changes.stays("store.data_dir", &running.store.data_dir, data_dir);
        changes.live("store.max_queued", &running.store.max_queued, max_queued);
        changes.live("store.max_queued_bytes", &running.store.max_queued_bytes, max_queued_bytes);
        changes.live("store.remember_days", &running.store.remember_days, remember_days);
        changes.stays("store.journal_days", &running.store.journal_days, journal_days);
        changes.stays("store.journal_bytes", &running.store.journal_bytes, journal_bytes);
        changes.stays("store.min_free", &running.store.min_free_bytes, min_free_bytes);
        let StoreSection { forget_orders_hours, .. } = store;
        changes.live("store.forget_orders_hours", &running.store.forget_orders_hours, forget_orders_hours);
        let StoreSection { new_card, new_card_offline_seconds, new_card_minutes, new_card_hours, .. } = store;
        changes.stays("store.new_card", &running.store.new_card, new_card);
        changes.stays("store.new_card_offline_seconds", &running.store.new_card_offline_seconds, new_card_offline_seconds);
        changes.stays("store.new_card_minutes", &running.store.new_card_minutes, new_card_minutes);
        changes.stays("store.new_card_hours", &running.store.new_card_hours, new_card_hours);

        let Http { listen, tls, insecure, hosts, submits_per_second, allow, tokens } = http;
        changes.stays("http.listen", &running.http.listen, listen);
        changes.stays("http.insecure", &running.http.insecure, insecure);
        changes.stays("http.hosts", &running.http.hosts, hosts);
        changes.stays("http.submits_per_second", &running.http.submits_per_second, submits_per_second);
        // Whether it is spoken at all is the listener's.
        match (&running.http.tls, &*tls) {
            (Some(_), Some(_)) => drop(changes.live("http.tls_cert and its key", &running.http.tls, tls)),
            _ => changes.stays("http.tls_cert and its key", &running.http.tls, tls),
        }
        changes.live("http.allow", &running.http.allow, allow);
        changes.live("http.token", &running.http.tokens, tokens);

        match (&running.mqtt, &mut *mqtt) {
            (Some(running), Some(mqtt)) => changes.of_mqtt(running, mqtt),
            _ => changes.stays("mqtt", &running.mqtt, mqtt),
        }
        changes.stays("serial", &running.serial, serial);
        match (&running.kafka, &mut *kafka) {
            (Some(running), Some(kafka)) => changes.of_kafka(running, kafka),
            _ => changes.stays("kafka", &running.kafka, kafka),
        }
        changes.stays("uplink.delivery", &running.delivery, delivery);
        changes.stays("uplink.dead_letters", &running.behind_dead, behind_dead);
        changes.stays("downlink", &running.downlinks, downlinks);
        changes.stays("centre.dialect", &running.dialect, dialect);
        changes.live("board", &running.board, board);
        changes.stays("kitchen", &running.kitchen, kitchen);
        changes.stays("display.language", &running.language, language);
        changes.stays("printer", &running.printers, printers);
        changes.live("orders.strict", &running.strict_orders, strict_orders);

        let Log { level, format } = log;
        changes.live("log.level", &running.log.level, level);
        changes.stays("log.format", &running.log.format, format);
        (merged, changes)
    }

    fn of_mqtt(&mut self, running: &Mqtt, newer: &mut Mqtt) {
        let Mqtt { url, login, ca_file, client_id } = newer;
        self.stays("mqtt.url", &running.url, url);
        self.mqtt |= self.live("mqtt.username and its password", &running.login, login);
        self.mqtt |= self.live("mqtt.ca_file", &running.ca_file, ca_file);
        self.stays("mqtt.client_id", &running.client_id, client_id);
    }

    fn of_kafka(&mut self, running: &Kafka, newer: &mut Kafka) {
        let Kafka {
            brokers,
            topic,
            dead_letter_topic,
            dead_letter_alarm,
            status_topic,
            partitioner,
            compression,
            security,
            sasl,
            ca_file,
            certificate,
            properties,
        } = newer;
        self.stays("kafka.topic", &running.topic, topic);
        self.stays("kafka.dead_letter_topic", &running.dead_letter_topic, dead_letter_topic);
        self.stays("kafka.dead_letter_alarm", &running.dead_letter_alarm, dead_letter_alarm);
        self.stays("kafka.status_topic", &running.status_topic, status_topic);
        self.stays("kafka.partitioner", &running.partitioner, partitioner);
        self.kafka |= self.live("kafka.brokers", &running.brokers, brokers);
        self.kafka |= self.live("kafka.compression", &running.compression, compression);
        self.kafka |= self.live("kafka.security", &running.security, security);
        self.kafka |= self.live("kafka.username and its password", &running.sasl, sasl);
        self.kafka |= self.live("kafka.ca_file", &running.ca_file, ca_file);
        self.kafka |= self.live("kafka.cert_file and its key", &running.certificate, certificate);
        self.kafka |= self.live("kafka.properties", &running.properties, properties);
    }

    fn live<T: PartialEq>(&mut self, key: &'static str, running: &T, newer: &T) -> bool {
        let changed = running != newer;
        if changed {
            self.live.push(key);
        }
        changed
    }

    fn stays<T: PartialEq + Clone>(&mut self, key: &'static str, running: &T, newer: &mut T) {
        if running != newer {
            self.restart.push(key);
            newer.clone_from(running);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;

    fn config(text: &str) -> Config {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dumbwaiter.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(&path, &Environment::default()).unwrap()
    }

    const RUNNING: &str = "gateway.id = 'g'\nkafka.brokers = 'k1'\nmqtt.url = 'mqtt://b'";

    #[test]
    fn the_same_config_changes_nothing() {
        assert_eq!(Changes::between(&config(RUNNING), &config(RUNNING)).1, Changes::default());
    }

    #[test]
    fn what_needs_a_restart_stays_and_is_told_again_at_the_next_reload() {
        let newer = "gateway.id = 'g'\nkafka.brokers = 'k2'\nkafka.topic = 'other'\nlog.level = 'debug'\nstore.max_queued = 500";
        let (running, newer) = (config(RUNNING), config(newer));
        let (merged, changes) = Changes::between(&running, &newer);
        assert_eq!(changes.live, ["store.max_queued", "kafka.brokers", "log.level"]);
        assert_eq!(changes.restart, ["mqtt", "kafka.topic"]);
        assert!(changes.kafka && !changes.mqtt);
        assert!(merged.mqtt == running.mqtt && merged.store == newer.store && merged.log == newer.log);
        assert_eq!(merged.kafka.as_ref().unwrap().topic, running.kafka.unwrap().topic);
        let (_, again) = Changes::between(&merged, &newer);
        assert_eq!((again.live.len(), again.restart), (0, changes.restart));
    }

    #[test]
    fn a_renewed_file_under_the_same_name_is_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let (ca, password) = (folder.path().join("ca.pem"), folder.path().join("password"));
        let read = |certificate: &str, secret: &str| {
            std::fs::write(&ca, format!("-----BEGIN CERTIFICATE-----\n{certificate}\n-----END CERTIFICATE-----\n")).unwrap();
            std::fs::write(&password, secret).unwrap();
            config(&format!(
                "{RUNNING}\nkafka.security = 'sasl_ssl'\nkafka.username = 'u'\nkafka.password_file = {password:?}\nkafka.ca_file = {ca:?}"
            ))
        };
        let (first, renewed, changed) = (read("AAAA", "one"), read("BBBB", "one"), read("BBBB", "two"));
        assert_eq!(Changes::between(&first, &renewed).1.live, ["kafka.ca_file"]);
        assert_eq!(Changes::between(&renewed, &changed).1.live, ["kafka.username and its password"]);
    }
}
