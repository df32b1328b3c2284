//! `dumbwaiter terminal add|remove|rotate NAME`: gives a terminal what it needs to speak to the gateway, and takes it away.
//!
//! A token and a password are shown once, here, and kept as hashes. Nothing changes for the other terminals: what was written counts from the
//! next reload on.

mod fragment;
mod mosquitto;

use super::{AddArgs, ChangeArgs, check, print};
use crate::config::{Config, Environment, MqttUrl};
use crate::ingress::http;
use anyhow::{bail, ensure};
use fragment::{Content, Fragment};
use gateway::ids::Name;
use mosquitto::Passwords;
use serde_json::{Map, Value, json};
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::ExitCode;

/// Letters and digits that are not taken for one another.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// Characters of a token: 260 bits.
const TOKEN_CHARACTERS: usize = 52;
/// Characters of a password for MQTT, which somebody types: 120 bits.
const PASSWORD_CHARACTERS: usize = 24;
const RELOAD: &str = "systemctl reload dumbwaiter";
const RELOAD_BROKER: &str = "systemctl reload mosquitto";
/// Serial ports are opened at a start. What was answered stays, and terminals go on where they were.
const RESTART: &str = "systemctl restart dumbwaiter";

/// What was done, to be told.
#[derive(Default)]
struct Done {
    token: Option<String>,
    password: Option<String>,
    serial: Option<String>,
    /// What makes it count.
    then: Vec<&'static str>,
}

impl Done {
    fn then(&mut self, command: &'static str) {
        if !self.then.contains(&command) {
            self.then.push(command);
        }
    }
}

/// `terminal add`.
///
/// # Errors
/// What it is asked for is there already, or cannot be written: nothing has changed.
pub fn add(args: &AddArgs, as_json: bool) -> anyhow::Result<ExitCode> {
    let name = &args.terminal;
    let config = match check::load(&args.config.config) {
        Ok(config) => config,
        Err(code) => return Ok(code),
    };
    ensure!(args.http || args.mqtt || args.serial.is_some(), "how is {name} connected? Give --http, --mqtt or --serial PATH");
    let mut fragment = Fragment::of(&args.config.config, name)?;
    let mut done = Done::default();
    if args.http {
        ensure!(!fragment.content.has_token(), "{name} has a token already: dumbwaiter terminal rotate {name} gives it another");
        done.token = Some(give_token(&mut fragment.content, name)?);
        done.then(RELOAD);
    }
    if let Some(path) = &args.serial {
        ensure!(!fragment.content.has_port(), "{name} is at a port already: dumbwaiter terminal remove {name} comes first");
        fragment.content.set_port(name, path, args.baud, args.framing);
        done.serial = Some(format!("{} at {} baud, {}", path.display(), args.baud, args.framing.as_str()));
        done.then(RESTART);
    }
    let mut passwords = None;
    if args.mqtt {
        let mut found = Passwords::read(&args.passwords)?;
        ensure!(Some(name.as_str()) != gateways_user(&config), "{name} is the gateway's own user at the broker: no terminal may have it");
        ensure!(!found.has(name.as_str()), "{name} has a password already: dumbwaiter terminal rotate {name} gives it another");
        done.password = Some(give_password(&mut found, name)?);
        done.then(RELOAD_BROKER);
        passwords = Some(found);
    }
    if args.http || args.serial.is_some() {
        fragment.write()?;
        // Two fragments may contradict each other: a daemon that reloads must never meet that.
        if let Err(code) = check::load(&args.config.config) {
            fragment.restore()?;
            eprintln!("nothing was changed");
            return Ok(code);
        }
    }
    if let Some(passwords) = &passwords
        && let Err(error) = passwords.write()
    {
        if args.http || args.serial.is_some() {
            fragment.restore()?;
        }
        return Err(error);
    }
    tell(&format!("{name} is added."), name, &config, &done, as_json)?;
    if !as_json && let Some(passwords) = &passwords {
        print(&notes(&config, passwords))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `terminal rotate`: another token and another password, of what the terminal has.
///
/// # Errors
/// It has neither, or nothing can be written: both are as they were, or the token is new and the password is not.
pub fn rotate(args: &ChangeArgs, as_json: bool) -> anyhow::Result<ExitCode> {
    let name = &args.terminal;
    let config = match check::load(&args.config.config) {
        Ok(config) => config,
        Err(code) => return Ok(code),
    };
    let mut fragment = Fragment::of(&args.config.config, name)?;
    let mut passwords = Passwords::read(&args.passwords)?;
    let mut done = Done::default();
    if fragment.content.has_token() {
        done.token = Some(give_token(&mut fragment.content, name)?);
        done.then(RELOAD);
    }
    if passwords.has(name.as_str()) && Some(name.as_str()) != gateways_user(&config) {
        done.password = Some(give_password(&mut passwords, name)?);
        done.then(RELOAD_BROKER);
    }
    ensure!(!done.then.is_empty(), "{name} has neither a token nor a password that this command gave: dumbwaiter terminal add {name}");
    if done.token.is_some() {
        fragment.write()?;
    }
    if done.password.is_some() {
        passwords.write()?;
    }
    tell(&format!("{name} has a new secret; the old one is good until the reload."), name, &config, &done, as_json)?;
    Ok(ExitCode::SUCCESS)
}

/// `terminal remove`.
///
/// # Errors
/// There is nothing of it, or it cannot be removed.
pub fn remove(args: &ChangeArgs, as_json: bool) -> anyhow::Result<ExitCode> {
    let name = &args.terminal;
    let fragment = Fragment::of(&args.config.config, name)?;
    let mut passwords = Passwords::read(&args.passwords)?;
    // Also where the config is wrong: that must keep nobody in.
    let config = Config::load(&args.config.config, &Environment::of_process());
    let is_gateways = config.is_ok_and(|config| Some(name.as_str()) == gateways_user(&config));
    let has_password = passwords.has(name.as_str()) && !is_gateways;
    if !fragment.exists() && !has_password {
        bail!("neither {} nor {} says anything of {name}", fragment.path().display(), passwords.path().display());
    }
    let mut done = Done::default();
    if has_password {
        passwords.remove(name);
        passwords.write()?;
        done.then(RELOAD_BROKER);
    }
    if fragment.exists() {
        fragment.remove()?;
        done.then(if fragment.content.has_port() { RESTART } else { RELOAD });
    }
    let text = match as_json {
        true => format!("{}\n", json!({"terminal": name.as_str(), "then": done.then})),
        false => format!("{name} is removed. It is let in until:\n\n{}", commands(&done)),
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn give_token(content: &mut Content, name: &Name) -> anyhow::Result<String> {
    let token = secret(TOKEN_CHARACTERS)?;
    content.set_token(name, &http::hash(token.as_bytes()));
    Ok(token)
}

fn give_password(passwords: &mut Passwords, name: &Name) -> anyhow::Result<String> {
    let password = secret(PASSWORD_CHARACTERS)?;
    passwords.set(name, &password)?;
    Ok(password)
}

/// Five random bits a character.
fn secret(characters: usize) -> anyhow::Result<String> {
    let mut bytes = vec![0; characters];
    getrandom::fill(&mut bytes).map_err(|e| anyhow::anyhow!("the system gives no random bytes: {e}"))?;
    Ok(bytes.into_iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect())
}

fn gateways_user(config: &Config) -> Option<&str> {
    let (user, _) = config.mqtt.as_ref()?.login.as_ref()?;
    Some(user)
}

fn tell(first: &str, name: &Name, config: &Config, done: &Done, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return print(&format!("{}\n", for_programs(name, config, done)));
    }
    let mut text = format!("{first}\n");
    if let Some(token) = &done.token {
        text.push_str(&http_text(config, token));
    }
    if let Some(password) = &done.password {
        text.push_str(&mqtt_text(name, config, password));
    }
    if let Some(serial) = &done.serial {
        let _ = write!(text, "\nSerial\n  port       {serial}\n");
    }
    let shown = done.token.is_some() || done.password.is_some();
    let _ = write!(text, "\n{}It takes effect with:\n\n{}", if shown { "No secret is shown again. " } else { "" }, commands(done));
    print(&text)
}

fn commands(done: &Done) -> String {
    done.then.iter().map(|command| format!("  {command}\n")).collect()
}

fn http_text(config: &Config, token: &str) -> String {
    let listen = config.http.listen;
    let url = orders_url(config);
    let mut text = format!(
        "\nHTTP: type this into the till\n  URL        {url}\n  header     Authorization: Bearer {token}\n\n  to try it  \
         curl -H 'Authorization: Bearer {token}' -H 'Content-Type: application/json' -H 'Idempotency-Key: try-1' \\\n             \
         -d '{EXAMPLE}' {url}\n"
    );
    if listen.ip().is_loopback() {
        let _ = writeln!(text, "  note       the gateway listens on {listen}, which no other computer reaches: see listen under [http]");
    }
    text
}

const EXAMPLE: &str = r#"{"userId":"test","orderDetails":[{"foodId":"f-1","foodName":"Pizza","price":12.50,"quantity":1}]}"#;

const MQTT_EXAMPLE: &str =
    r#"{"requestId":"try-1","userId":"test","data":{"orderDetails":[{"foodId":"f-1","foodName":"Pizza","price":12.50,"quantity":1}]}}"#;

fn mqtt_text(name: &Name, config: &Config, password: &str) -> String {
    let Topics { submit, answer, status, state } = Topics::of(name, config);
    let broker = broker(config);
    let example = MQTT_EXAMPLE;
    format!(
        "\nMQTT: type this into the till\n  broker     {broker}\n  user       {name}\n  password   {password}\n  submit to  {submit}\n  \
         answers    {answer}\n  statuses   {status}\n  state      {state}  (retained, and as its will)\n  payload    {example}\n"
    )
}

struct Topics {
    submit: String,
    answer: String,
    status: String,
    state: String,
}

impl Topics {
    fn of(name: &Name, config: &Config) -> Topics {
        let own = |leaf: &str| format!("ord/v1/{}/t/{name}/{leaf}", config.gateway.id);
        Topics { submit: own("submit"), answer: own("answer"), status: own("status/+"), state: own("state") }
    }
}

fn for_programs(name: &Name, config: &Config, done: &Done) -> Value {
    let mut told = Map::from_iter([("terminal".to_owned(), json!(name.as_str())), ("then".to_owned(), json!(done.then))]);
    if let Some(token) = &done.token {
        told.insert("http".into(), json!({"url": orders_url(config), "token": token}));
    }
    if let Some(password) = &done.password {
        let Topics { submit, answer, status, state } = Topics::of(name, config);
        let topics = json!({"submit": submit, "answer": answer, "status": status, "state": state});
        told.insert("mqtt".into(), json!({"broker": broker(config), "user": name.as_str(), "password": password, "topics": topics}));
    }
    Value::Object(told)
}

/// What is still missing for a terminal to be heard over MQTT.
fn notes(config: &Config, passwords: &Passwords) -> String {
    let path = passwords.path().display();
    match gateways_user(config) {
        None => format!(
            "\nThe config has no [mqtt] with a username yet: the gateway cannot be at a broker that asks for one.\n  mosquitto_passwd {path} dumbwaiter\n"
        ),
        Some(user) if !passwords.has(user) => format!("\n{path} does not know the gateway itself yet:\n  mosquitto_passwd {path} {user}\n"),
        Some(_) => String::new(),
    }
}

fn broker(config: &Config) -> String {
    match &config.mqtt {
        Some(mqtt) if mqtt.url.address.host != "localhost" && !mqtt.url.address.host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback()) => {
            mqtt.url.to_string()
        }
        Some(mqtt) => {
            let MqttUrl { address, tls } = &mqtt.url;
            format!("{}://{}", if *tls { "mqtts" } else { "mqtt" }, own_address(address.port))
        }
        None => format!("mqtt://{}", own_address(1883)),
    }
}

fn orders_url(config: &Config) -> String {
    let scheme = if config.http.tls.is_some() { "https" } else { "http" };
    format!("{scheme}://{}/api/v1/orders", reached_at(config.http.listen))
}

/// Where another computer reaches a listener.
pub fn reached_at(listen: SocketAddr) -> String {
    match listen.ip() {
        ip if ip.is_unspecified() || ip.is_loopback() => own_address(listen.port()),
        _ => listen.to_string(),
    }
}

/// This computer's address in the house, as far as it knows its way out. No packet is sent for it.
fn own_address(port: u16) -> String {
    let found = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        // An address of RFC 5737, which is nobody's.
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    match found {
        Ok(address) => SocketAddr::new(address.ip(), port).to_string(),
        Err(_) => format!("THIS-COMPUTER:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gateway::request::Request;

    #[test]
    fn what_is_shown_to_try_is_a_request() {
        assert!(Request::parse_new_order("try-1".parse().unwrap(), EXAMPLE.as_bytes()).is_ok());
        let request = Request::parse(MQTT_EXAMPLE.as_bytes()).unwrap();
        assert_eq!(request.user_id.as_deref(), Some("test"));
    }

    #[test]
    fn a_secret_has_the_bits_it_should_and_none_that_are_taken_for_another() {
        let token = secret(TOKEN_CHARACTERS).unwrap();
        assert!(token.len() == 52 && token.bytes().all(|byte| ALPHABET.contains(&byte)));
        assert!(!ALPHABET.iter().any(|letter| b"lo01".contains(letter)));
        assert_ne!(token, secret(TOKEN_CHARACTERS).unwrap());
    }
}
