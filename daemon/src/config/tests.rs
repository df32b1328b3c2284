use super::values::SaslMechanism;
use super::*;
use gateway::dialect::Partitioner;
use gateway::io::Select;
use std::fs;

const EXAMPLE: &str = include_str!("../../../config.example.toml");

struct House {
    folder: tempfile::TempDir,
    environment: Environment,
}

impl House {
    fn new(config: &str) -> House {
        let house = House { folder: tempfile::tempdir().unwrap(), environment: Environment::default() };
        house.file("dumbwaiter.toml", config);
        house
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn variable(mut self, name: &str, text: &str) -> House {
        self.environment.variables.insert(name.into(), text.into());
        self
    }

    fn load(&self) -> Result<Config, Problems> {
        Config::load(&self.folder.path().join("dumbwaiter.toml"), &self.environment)
    }

    /// The problems, with the folder's name removed.
    fn problems(&self) -> Vec<String> {
        let folder = format!("{}/", self.folder.path().display());
        let problems = self.load().expect_err("the config is wrong");
        problems.0.iter().map(|problem| problem.to_string().replace(&folder, "")).collect()
    }
}

/// The single problem of a config that has only this one beside the id.
fn problem(config: &str) -> String {
    let problems = House::new(&format!("gateway.id = \"g\"\n{config}")).problems();
    assert_eq!(problems.len(), 1, "{problems:#?}");
    problems[0].clone()
}

fn load(config: &str) -> Config {
    House::new(&format!("gateway.id = \"g\"\n{config}")).load().unwrap_or_else(|problems| panic!("{problems}"))
}

#[test]
fn the_example_is_right_and_shows_the_defaults() {
    let example = House::new(EXAMPLE).load().unwrap_or_else(|problems| panic!("{problems}"));
    let bare = load("kafka.brokers = 'k'\nmqtt.url = 'mqtt://127.0.0.1'\n[[downlink]]\ntopic = 'order-status'");
    let same = |of: fn(&Config) -> String| assert_eq!(of(&example), of(&bare));
    same(|c| format!("{:?}", c.store));
    same(|c| format!("{:?} {}", c.http.listen, c.http.insecure));
    same(|c| format!("{:?}", c.gateway.business_day_starts));
    same(|c| format!("{:?}", c.mqtt.as_ref().unwrap().url));
    same(|c| format!("{:?} {:?} {:?} {:?} {} {:?} {:?}", c.board, c.kitchen, c.delivery, c.dialect, c.strict_orders, c.log, c.downlinks));
    same(|c| {
        let k = c.kafka.as_ref().unwrap();
        format!("{} {:?} {:?} {:?} {:?} {:?}", k.topic, k.dead_letter_topic, k.status_topic, k.partitioner, k.compression, k.security)
    });
    assert_eq!(example.serial[0].baud, 115_200);
    assert_eq!(example.serial[0].framing, Framing::Binary);
    assert_eq!(example.mqtt.unwrap().client_id, format!("dumbwaiter-{}", example.gateway.id));
    assert_eq!(bare.mqtt.unwrap().client_id, "dumbwaiter-g");
}

/// A key that is commented out in the example is right too, once its files are there.
#[test]
fn what_the_example_comments_out_is_right_as_well() {
    let uncomment = |line: &str| match line.strip_prefix("# ") {
        Some(rest) if rest.starts_with("[[") => rest.to_owned(),
        Some(rest) if rest.split_once(" = ").is_some_and(|(key, _)| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')) => {
            rest.to_owned()
        }
        _ => line.to_owned(),
    };
    let text: Vec<String> = EXAMPLE.lines().map(uncomment).collect();
    let text = text.join("\n").replace("mqtt://127", "mqtts://127").replace("\"plaintext\"", "\"sasl_ssl\"");
    let house = House::new(&text);
    for name in ["mqtt.password", "kafka.password", "kafka-key.password"] {
        house.file(name, "hush\n");
    }
    for name in ["http-cert.pem", "http-key.pem", "mqtt-ca.pem", "kafka-ca.pem", "kafka-cert.pem", "kafka-key.pem"] {
        house.file(name, "-----BEGIN CERTIFICATE-----\n");
    }
    let config = house.load().unwrap_or_else(|problems| panic!("{problems}"));
    let kafka = config.kafka.as_ref().unwrap();
    assert_eq!(kafka.sasl.as_ref().unwrap().password.expose(), "hush");
    assert!(kafka.certificate.as_ref().unwrap().key_password.is_some());
    assert_eq!(config.printers.len(), 1);
    assert!(!format!("{config:?}").contains("hush"), "a secret was printed");
}

#[test]
fn everything_has_a_default_but_the_gateway_id() {
    let config = load("");
    assert!(config.mqtt.is_none() && config.kafka.is_none() && config.serial.is_empty() && config.downlinks.is_empty());
    assert_eq!(House::new("").problems(), ["dumbwaiter.toml:1: gateway.id: is missing; name this gateway, id = \"store-042\""]);
}

#[test]
fn an_unknown_key_is_told_with_line_key_and_a_suggestion() {
    assert_eq!(
        problem("\n[kafka]\nbroker = 'k'\nbrokers = 'k'"),
        "dumbwaiter.toml:4: kafka.broker: is no key; did you mean kafka.brokers?"
    );
    assert_eq!(problem("[sore]"), "dumbwaiter.toml:2: sore: is no key; did you mean store?");
    assert_eq!(
        problem("[[serial]]\nterminal = 't'\npath = '/dev/a'\nbuad = 9600"),
        "dumbwaiter.toml:5: serial.buad: is no key; did you mean serial.baud?"
    );
    assert!(problem("[board]\nzebra = 1").ends_with("board.zebra: is no key; the keys here are ready_minutes, hours"));
    assert!(problem("[mqtt]\nurl = 'mqtt://h'\npassword = 'hush'").ends_with("mqtt.password: is no key; did you mean mqtt.password_file?"));
}

#[test]
fn all_problems_are_told_at_once_in_the_order_of_lines() {
    let problems = House::new("[gateway]\nid = 'a b'\ntime_zone = 'Mars'\n[http]\nlisten = '0.0.0.0:80'\n[log]\nlevel = 'loud'").problems();
    let places: Vec<&str> = problems.iter().map(|p| p.split(": ").nth(1).unwrap()).collect();
    assert_eq!(places, ["gateway.id", "gateway.time_zone", "http.listen", "log.level"], "{problems:#?}");
    assert!(problems.iter().zip([2, 3, 5, 7]).all(|(p, line)| p.starts_with(&format!("dumbwaiter.toml:{line}: "))), "{problems:#?}");
}

#[test]
fn broken_toml_is_told_with_its_line() {
    let problems = House::new("[gateway]\nid = \"g\nx = 1\n").problems();
    assert!(problems[0].starts_with("dumbwaiter.toml:2: is not TOML: "), "{problems:#?}");
    assert!(House::new("a = 1\na = 2").problems()[0].starts_with("dumbwaiter.toml:2: is not TOML: duplicate key"));
}

#[test]
fn a_missing_file_says_what_to_do() {
    let problems = Config::load(Path::new("/nonexistent/x.toml"), &Environment::default()).unwrap_err();
    assert_eq!(problems.to_string(), "/nonexistent/x.toml:1: there is no such file; give another with --config");
}

#[test]
fn drop_ins_are_merged_over_the_file_in_name_order() {
    let house =
        House::new("[gateway]\nid = 'g'\n[store]\nmax_queued = 1000\nremember_days = 3\n[[serial]]\nterminal = 'a'\npath = '/dev/a'");
    house.file("conf.d/20.toml", "[store]\nmax_queued = 3000");
    house.file("conf.d/10.toml", "[store]\nmax_queued = 2000\n[[serial]]\nterminal = 'b'\npath = '/dev/b'");
    house.file("conf.d/30.toml.bak", "nonsense");
    house.file("conf.d/.30.toml", "nonsense");
    let config = house.load().unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!((config.store.max_queued, config.store.remember_days), (3000, 3));
    assert_eq!(config.serial.iter().map(|p| p.terminal.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    house.file("conf.d/40.toml", "\n[store]\nmax_queud = 1");
    assert_eq!(house.problems(), ["conf.d/40.toml:3: store.max_queud: is no key; did you mean store.max_queued?"]);
}

#[test]
fn variables_override_every_kind_of_key() {
    let config = House::new("[gateway]\nid = 'g'\n[[serial]]\nterminal = 'a'\npath = '/dev/a'")
        .variable("DUMBWAITER_GATEWAY__ID", "h")
        .variable("DUMBWAITER_GATEWAY__RESTAURANT_IDS", "r1, r2")
        .variable("DUMBWAITER_STORE__MAX_QUEUED_BYTES", "2 GiB")
        .variable("DUMBWAITER_ORDERS__STRICT", "true")
        .variable("DUMBWAITER_KAFKA__BROKERS", "k1:9092,k2")
        .variable("DUMBWAITER_KAFKA__PROPERTIES__SOCKET_KEEPALIVE_ENABLE", "true")
        .variable("DUMBWAITER_SERIAL__0__BAUD", "9600")
        .variable("DUMBWAITER_SERIAL__1__TERMINAL", "b")
        .variable("DUMBWAITER_SERIAL__1__PATH", "/dev/b")
        .variable("DUMBWAITER_HTTP__ALLOW__0__FROM", "10.0.0.1")
        .variable("DUMBWAITER_HTTP__ALLOW__0__TERMINAL", "c")
        .variable("DUMBWAITER_LOG", "debug")
        .variable("OTHER__KEY", "x")
        .load()
        .unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.gateway.id.as_str(), "h");
    assert_eq!(config.gateway.restaurant_ids, ["r1", "r2"]);
    assert_eq!(config.store.max_queued_bytes, 2 << 30);
    assert!(config.strict_orders);
    let kafka = config.kafka.unwrap();
    assert_eq!(kafka.brokers.iter().map(|b| b.0.to_string()).collect::<Vec<_>>(), ["k1:9092", "k2:9092"]);
    assert_eq!(kafka.properties, [("socket.keepalive.enable".to_owned(), "true".to_owned())]);
    assert_eq!(config.serial.iter().map(|p| (p.terminal.as_str(), p.baud)).collect::<Vec<_>>(), [("a", 9600), ("b", 115_200)]);
    assert_eq!(config.http.allow[0].terminal.as_str(), "c");
}

#[test]
fn a_wrong_variable_is_told_by_its_name() {
    let problems =
        House::new("gateway.id = 'g'").variable("DUMBWAITER_STORE__MAX_QUEUED", "many").variable("DUMBWAITER_STOR__X", "1").problems();
    assert_eq!(
        problems,
        [
            "DUMBWAITER_STORE__MAX_QUEUED: store.max_queued: is 'many'; give a whole number",
            "DUMBWAITER_STOR__X: stor: is no key; did you mean store?"
        ]
    );
    let problems = House::new("gateway.id = 'g'").variable("DUMBWAITER_SERIAL__5__PATH", "/dev/x").problems();
    assert_eq!(problems, ["DUMBWAITER_SERIAL__5__PATH: serial.5.path: there is no number 5; the next one is 0"]);
}

#[test]
fn one_terminal_or_path_on_two_ports_names_both_lines() {
    let ports = |b: &str| format!("[[serial]]\nterminal = 'a'\npath = '/dev/a'\n[[serial]]\n{b}");
    let twice = problem(&ports("terminal = 'a'\npath = '/dev/b'"));
    assert!(twice.starts_with("dumbwaiter.toml:6: serial.terminal: a is already at ") && twice.contains("dumbwaiter.toml:3;"), "{twice}");
    let twice = problem(&ports("terminal = 'b'\npath = '/dev/a'"));
    assert!(twice.starts_with("dumbwaiter.toml:7: serial.path: ") && twice.contains("dumbwaiter.toml:4;"), "{twice}");
    let twice = problem("[[http.allow]]\nfrom = '10.0.0.1'\nterminal = 'a'\n[[serial]]\nterminal = 'a'\npath = '/dev/a'");
    assert!(twice.contains("dumbwaiter.toml:6: serial.terminal") && twice.contains("dumbwaiter.toml:4;"), "{twice}");
}

#[test]
fn two_names_of_one_device_are_one_port() {
    let house = House::new("");
    let device = house.file("tty", "");
    let link = house.folder.path().join("by-path");
    std::os::unix::fs::symlink(&device, &link).unwrap();
    let ports = format!(
        "[gateway]\nid = 'g'\n[[serial]]\nterminal = 'a'\npath = '{}'\n[[serial]]\nterminal = 'b'\npath = '{}'",
        device.display(),
        link.display()
    );
    house.file("dumbwaiter.toml", &ports);
    assert_eq!(house.problems(), ["dumbwaiter.toml:8: serial.path: by-path is already opened by dumbwaiter.toml:5; give each port once"]);
}

#[test]
fn there_is_an_end_to_serial_ports() {
    let ports = |n: usize| (0..n).map(|n| format!("[[serial]]\nterminal = 'till-{n}'\npath = '/dev/ttyX{n}'\n")).collect::<String>();
    assert_eq!(load(&ports(SERIAL_PORTS_MAX)).serial.len(), SERIAL_PORTS_MAX);
    assert!(problem(&ports(SERIAL_PORTS_MAX + 1)).contains("serial: stands more than 64 times; remove some"));
}

#[test]
fn a_listener_off_loopback_must_be_meant() {
    assert!(problem("[http]\nlisten = '0.0.0.0:8080'").contains("http.listen: 0.0.0.0:8080 can be reached from outside"));
    assert!(load("[http]\nlisten = '0.0.0.0:8080'\ninsecure = true").http.insecure);
    let house = House::new("gateway.id = 'g'\n[http]\nlisten = '0.0.0.0:8080'\ntls_cert = 'cert.pem'\ntls_key = 'key.pem'");
    house.file("cert.pem", "-----BEGIN CERTIFICATE-----");
    house.file("key.pem", "-----BEGIN PRIVATE KEY-----");
    assert!(house.load().unwrap().http.tls.is_some());
    house.file("dumbwaiter.toml", "gateway.id = 'g'\n[http]\nlisten = '0.0.0.0:8080'\ntls_cert = 'cert.pem'");
    assert_eq!(house.problems(), ["dumbwaiter.toml:4: http.tls_key: is missing; give the key of tls_cert"]);
    assert_eq!(load("[http]\nlisten = '[::1]:81'").http.listen.port(), 81);
    assert_eq!(load("[http]\nsubmits_per_second = 20").http.submits_per_second, 20);
    assert!(problem("[http]\nsubmits_per_second = 0").contains("http.submits_per_second: is 0; give 1 to 10000"));
    assert_eq!(load("[http]\nhosts = ['board.local']").http.hosts, ["board.local"]);
    for wrong in ["", "http://board.local", "board.local:80", "*"] {
        assert!(problem(&format!("[http]\nhosts = ['ok', '{wrong}']")).contains("is no host name"), "{wrong}");
    }
}

#[test]
fn properties_that_would_break_a_promise_are_refused_with_the_reason() {
    let set = |line: &str| problem(&format!("[kafka]\nbrokers = 'k'\n[kafka.properties]\n{line}"));
    for (line, reason) in [
        ("acks = 1", "every in-sync replica"),
        ("'enable.idempotence' = false", "neither double nor reorder"),
        ("'message.timeout.ms' = 1000", "expires nothing"),
        ("retries = 3", "expires nothing"),
        ("'enable.gapless.guarantee' = false", "keep their order"),
        ("'queue.buffering.max.kbytes' = 100", "give 8192 to 131072: memory is bounded"),
        ("partitioner = 'random'", "use kafka.partitioner"),
        ("'bootstrap.servers' = 'k'", "use kafka.brokers"),
        ("'isolation.level' = 'read_uncommitted'", "only committed events"),
        ("'enable.auto.commit' = true", "offsets live in the store"),
        ("'auto.offset.reset' = 'earliest'", "offsets live in the store"),
        ("'group.id' = 'g'", "named after the gateway"),
        ("'transactional.id' = 't'", "uplink.delivery"),
        ("'sasl.password' = 'hush'", "use kafka.password_file"),
        ("'ssl.key.pem' = 'hush'", "use kafka.key_file"),
        ("'no.such.thing' = 1", "refused by librdkafka: No such configuration property"),
        ("'socket.timeout.ms' = 'soon'", "refused by librdkafka"),
        ("socket.keepalive.enable = true", "write the whole name in quotes"),
    ] {
        let problem = set(line);
        assert!(problem.starts_with("dumbwaiter.toml:5: kafka.properties.") && problem.contains(reason), "{line}: {problem}");
        assert!(!problem.contains("hush"), "{problem}");
    }
    let kafka = load("[kafka]\nbrokers = 'k'\n[kafka.properties]\n'linger.ms' = 20\n'queue.buffering.max.kbytes' = 16384").kafka.unwrap();
    assert_eq!(kafka.properties.len(), 2);
}

#[test]
fn sasl_needs_a_user_and_a_password_from_a_file_or_a_credential() {
    let sasl = "[gateway]\nid = 'g'\n[kafka]\nbrokers = 'k'\nsecurity = 'sasl_plaintext'\nsasl_mechanism = 'SCRAM-SHA-512'\n";
    let missing = House::new(sasl).problems();
    assert_eq!(missing.len(), 2, "{missing:#?}");
    assert!(missing[0].contains("kafka.password_file: is missing") && missing[1].contains("kafka.username: is missing"), "{missing:#?}");

    let mut house = House::new(&format!("{sasl}username = 'u'"));
    house.file("credentials/kafka.password", "hush\n");
    house.environment.credentials = Some(house.folder.path().join("credentials"));
    let sasl = house.load().unwrap().kafka.unwrap().sasl.unwrap();
    assert_eq!((sasl.username.as_str(), sasl.password.expose(), sasl.mechanism), ("u", "hush", SaslMechanism::ScramSha512));

    let unused = problem("[kafka]\nbrokers = 'k'\nusername = 'u'");
    assert!(unused.contains("kafka.username: is of no use with security = \"plaintext\""), "{unused}");
}

#[test]
fn files_that_are_not_what_they_should_be_are_told() {
    let house =
        House::new("[gateway]\nid='g'\n[kafka]\nbrokers='k'\nsecurity='ssl'\nca_file='ca.pem'\ncert_file='absent.pem'\nkey_file='key.pem'");
    house.file("ca.pem", "\x30\x01");
    house.file("key.pem", "-----BEGIN PRIVATE KEY-----");
    let problems = house.problems();
    assert!(problems[0].contains("dumbwaiter.toml:6: kafka.ca_file: ca.pem is no PEM file"), "{problems:#?}");
    assert!(problems[1].contains("dumbwaiter.toml:7: kafka.cert_file: absent.pem cannot be read"), "{problems:#?}");
    assert_eq!(problems.len(), 2);
}

#[test]
fn downlinks_say_how_the_house_finds_its_own() {
    let downlink = |rest: &str| format!("[kafka]\nbrokers = 'k'\npartitioner = 'murmur2_random'\n[[downlink]]\n{rest}");
    let one = |rest: &str| load(&downlink(rest)).downlinks.remove(0);
    assert_eq!(one("topic = 'order-status'").source, DownlinkSource::Keyed(Partitioner::Murmur2Random));
    assert_eq!(one("topic = 'order-status'\npartitioner = 'fnv1a_random'").source, DownlinkSource::Keyed(Partitioner::Fnv1aRandom));
    assert_eq!(one("topic = 'order-status'\npartition = 3").source, DownlinkSource::Partition(3));
    assert_eq!(one("topic = 'order-events'\nselect = 'all'").source.select(), Select::All);
    let own = one("topic = 'status-{gateway}'");
    assert_eq!((own.topic.as_str(), own.source), ("status-g", DownlinkSource::Topic));
    for (rest, what) in [
        ("topic = 'order-events'", "downlink.select: is missing"),
        ("topic = 'order-events'\nselect = 'topic'", "a topic of the gateway's own"),
        ("topic = 'order-events'\nselect = 'all'\npartition = 1", "downlink.partition: is of no use"),
        ("topic = 'order-status'\npartition = 1\npartitioner = 'fnv1a_random'", "beside partition"),
        ("topic = 'order-status'\npartition = 3000000000", "Kafka counts partitions"),
        ("topic = 'a/b'\nselect = 'all'", "is no topic name"),
        ("topic = 'a'\nselect = 'all'\n[[downlink]]\ntopic = 'a'\nselect = 'all'", "already read by"),
    ] {
        let problem = problem(&downlink(rest));
        assert!(problem.contains(what), "{rest}: {problem}");
    }
    assert!(problem("[[downlink]]\ntopic = 'order-status'\npartitioner = 'fnv1a_random'").contains("without [kafka]"));
}

#[test]
fn addresses_are_read_or_refused() {
    let url = |url: &str| load(&format!("[mqtt]\nurl = '{url}'")).mqtt.unwrap().url.to_string();
    assert_eq!(url("mqtt://broker"), "mqtt://broker:1883");
    assert_eq!(url("mqtts://[::1]/"), "mqtts://[::1]:8883");
    for wrong in
        ["tcp://h", "mqtt://", "mqtt://u:p@h", "mqtt://h:0", "mqtt://h:99999", "mqtt://h/path", "mqtt://h:", "mqtt://[::1", "mqtt://a:b:1"]
    {
        assert!(problem(&format!("[mqtt]\nurl = '{wrong}'")).contains("mqtt.url: "), "{wrong}");
    }
    for wrong in ["", "k:x", "k 1", "http://k:9092", "[k]:1"] {
        assert!(problem(&format!("[kafka]\nbrokers = '{wrong}'")).contains("kafka.brokers: "), "{wrong}");
    }
}

#[test]
fn sizes_and_numbers_keep_within_their_bounds() {
    assert_eq!(load("[store]\nmax_queued_bytes = '512MiB'").store.max_queued_bytes, 512 << 20);
    assert_eq!(load("[store]\nmax_queued_bytes = 5000000").store.max_queued_bytes, 5_000_000);
    for wrong in [
        "max_queued_bytes = '1 Gib'",
        "max_queued_bytes = '-1'",
        "max_queued_bytes = 5",
        "max_queued = '9'",
        "max_queued = 1",
        "max_queued = -1",
    ] {
        assert!(problem(&format!("[store]\n{wrong}")).starts_with("dumbwaiter.toml:3: store.max_queued"), "{wrong}");
    }
    assert!(problem("[board]\nready_minutes = 1.5").contains("is a decimal number; give a whole number"));
    assert!(problem("[kitchen]\nwarn_minutes = 10").ends_with("kitchen.late_minutes: is 10; give more than warn_minutes, which is 10"));
    assert!(problem("[display]\nlanguage = 'xx'").ends_with("display.language: is 'xx'; give one of en, de, es, fr"));
    assert!(problem("[orders]\nstrict = 'yes'").contains("give true or false"));
    assert!(problem("http = 3").contains("is a whole number, but a section is expected; write [http]"));
    assert!(problem("[serial]\nterminal = 'a'").contains("write [[serial]]"));
}

#[test]
fn the_core_is_told_what_it_needs() {
    let settings = load("[store]\nmax_queued = 500\nremember_days = 2\n[board]\nready_minutes = 5\n[orders]\nstrict = true").settings();
    assert_eq!(settings.gateway.as_str(), "g");
    assert_eq!(settings.limits.queued_events_max, 500);
    assert_eq!(settings.remember_ms, 172_800_000);
    assert_eq!(settings.board.ready_ms, 300_000);
    assert!(settings.strict_orders);
}

#[test]
fn the_address_is_found_in_a_config_that_is_wrong_otherwise() {
    let house = House::new("[http]\nlisten = '127.0.0.1:81'\n[kafka]\nno_brokers = 1");
    let listen = |path: &str| listen_of(&house.folder.path().join(path), &house.environment).address.to_string();
    assert_eq!(listen("dumbwaiter.toml"), "127.0.0.1:81");
    assert_eq!(listen("absent.toml"), "127.0.0.1:8080");
}

/// Cuts and swaps in the example, drawn from a fixed sequence: each is a config or a list of problems, never a panic.
#[test]
fn no_text_stops_the_reader() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut draw = |below: usize| {
        // Marsaglia's xorshift64.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    let pieces = [
        "[",
        "]",
        "=",
        "\"",
        "'",
        "#",
        "\n",
        "{",
        "}",
        ".",
        ",",
        "ü",
        "\0",
        "-1",
        "1e999",
        "0x",
        "[[serial]]",
        "2020-01-01",
        "99999999999999999999",
    ];
    let house = House::new("");
    for _ in 0..400 {
        let mut text: Vec<char> = EXAMPLE.chars().collect();
        for _ in 0..=draw(4) {
            let from = draw(text.len());
            let to = (from + draw(30)).min(text.len());
            text.splice(from..to, pieces[draw(pieces.len())].chars());
        }
        house.file("dumbwaiter.toml", &text.iter().collect::<String>());
        if let Err(Problems(problems)) = house.load() {
            assert!(!problems.is_empty(), "refused without a reason: {}", text.iter().collect::<String>());
        }
    }
}

#[test]
fn a_printer_is_at_an_address_or_at_a_port_of_its_own() {
    let printer = |keys: &str| format!("[[printer]]\nname = 'kitchen'\n{keys}");
    let config = load(&printer("address = '10.0.4.30'\nstations = ['hot']"));
    let [found] = config.printers.as_slice() else { panic!("{:?}", config.printers) };
    assert!(matches!(&found.port, PrinterPort::Address(address) if address.to_string() == "10.0.4.30:9100"));
    assert!(found.status && found.confirms && found.cut && found.columns == 42 && found.kind == PrinterKind::Kitchen);
    assert!(!load(&printer("path = '/dev/ttyUSB9'\nstatus = false")).printers[0].confirms, "what says nothing confirms nothing");
    for (keys, wrong) in [
        ("", "or address is needed"),
        ("path = '/dev/ttyS9'\naddress = 'x'", "or address is needed"),
        ("path = 'ttyS9'", "is no device"),
        ("address = 'x'\nbaud = 9600", "are of no use with address"),
        ("address = 'x'\nstatus = false\nconfirms = true", "needs status = true"),
        ("address = 'x'\nkind = 'receipt'\nstations = 'bar'", "is of no use for a receipt"),
        ("address = 'x'\ncode_page = 'utf8'", "is no code page here"),
        ("address = 'x'\ncolumn = 42", "is no key; did you mean printer.columns?"),
        ("address = 'x'\n[[printer]]\nname = 'kitchen'\naddress = 'y'", "is another printer already"),
        ("path = '/dev/ttyS9'\n[[serial]]\nterminal = 't'\npath = '/dev/ttyS9'", "is opened already"),
    ] {
        let said = problem(&printer(keys));
        assert!(said.contains(wrong), "{keys}: {said}");
    }
}
