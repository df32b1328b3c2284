//! The whole trip, with nothing else installed: terminals, MQTT broker, Kafka and centre play in this process; the gateway is a process
//! of its own, so that its line can be cut and it can be killed. What the terminals heard is compared with what the centre got.

mod child;
mod ledger;
mod parts;
mod tills;
mod view;

use crate::demo::child::{Gateway, House};
use crate::demo::ledger::Ledger;
use crate::demo::tills::Tills;
use crate::demo::view::{Figures, View};
use anyhow::Context;
use centre::Centre;
use std::time::{Duration, Instant};

/// Without `--duration` the demo goes on until Ctrl-C; its script takes this long and begins anew.
const ROUND: Duration = Duration::from_secs(60);
/// After the last order, everything may take so long to arrive.
const SETTLE_MAX: Duration = Duration::from_secs(60);
/// The first order may take so long to reach the centre.
const FIRST_MAX: Duration = Duration::from_secs(30);
/// How often the living line is renewed.
const TICK: Duration = Duration::from_millis(200);

/// What the demo is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Ends by itself after about so long.
    pub duration: Option<Duration>,
    /// Standard output gets the ledger as JSON and nothing else.
    pub json: bool,
    /// A real Kafka, HOST:PORT.
    pub kafka: Option<String>,
    /// A real MQTT broker, HOST:PORT.
    pub mqtt: Option<String>,
}

/// What the script does to the gateway, and at which part of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Cut,
    Mend,
    Kill,
}

const SCRIPT: [(f64, Act); 6] =
    [(0.20, Act::Cut), (0.40, Act::Mend), (0.50, Act::Kill), (0.60, Act::Cut), (0.66, Act::Kill), (0.76, Act::Mend)];
/// Terminals submit until this part of the last round.
const LAST_ORDER: f64 = 0.85;

/// Runs the demo; `true` if nothing was lost, doubled or out of order.
///
/// # Errors
/// A part of the demo itself failed: nothing is said about the gateway.
pub async fn run(options: Options) -> anyhow::Result<bool> {
    let mut view = View::new(options.json);
    let kafka = match &options.kafka {
        Some(_) => None,
        None => Some(parts::Kafka::start()?),
    };
    let brokers = options.kafka.clone().or_else(|| kafka.as_ref().map(parts::Kafka::brokers)).context("no Kafka")?;
    let mqtt = match &options.mqtt {
        Some(address) => address.clone(),
        None => parts::start_mqtt_broker()?.to_string(),
    };
    let serial = parts::serial_line()?;
    let http = std::net::SocketAddr::from(([127, 0, 0, 1], parts::free_port()?));
    let house = House { http, mqtt: mqtt.clone(), serial: serial.gateway, brokers: brokers.clone() };
    let mut gateway = Gateway::prepare(&house)?;
    let centre = Centre::start(ledger::centre_settings(&brokers))?;
    let took = gateway.start().await?;
    view.say(&format!("the gateway is ready after {} ms; its board is at http://{http}/", took.as_millis()));
    let mut tills = Tills::start(&house, &serial.till)?;
    view.say("three terminals submit orders: a till on a serial line, a kiosk over MQTT, a web shop over HTTP");

    let mut trial = Trial { view, gateway, kafka, centre, outages: 0, line_up: true };
    trial.first_order(&tills).await?;
    let round = options.duration.unwrap_or(ROUND);
    loop {
        let more = trial.round(round, options.duration.is_some(), &mut tills).await?;
        if !more {
            break;
        }
    }
    let ledger = trial.settle(tills).await?;
    trial.view.end();
    if options.json {
        println!("{}", ledger.to_json());
    } else {
        print!("{ledger}");
    }
    Ok(ledger.is_clean())
}

struct Trial {
    view: View,
    gateway: Gateway,
    kafka: Option<parts::Kafka>,
    centre: Centre,
    outages: u32,
    line_up: bool,
}

impl Trial {
    /// Waits until the whole chain works once: the mock cluster forgets a consumer whose broker goes away while it joins its group.
    async fn first_order(&mut self, tills: &Tills) -> anyhow::Result<()> {
        let began = Instant::now();
        while self.centre.ledger(|seen| seen.delivered) == 0 {
            anyhow::ensure!(began.elapsed() < FIRST_MAX, "no order reached the centre within {FIRST_MAX:?}: the trial cannot begin");
            self.tell(tills).await;
            tokio::time::sleep(TICK).await;
        }
        self.view.say("the first order is at the centre: the trial begins");
        Ok(())
    }

    /// One run through the script; `false` when it was the last.
    async fn round(&mut self, length: Duration, last: bool, tills: &mut Tills) -> anyhow::Result<bool> {
        let began = Instant::now();
        let mut script = SCRIPT.iter().peekable();
        let mut tick = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {
                    self.view.say("told to end: no more orders");
                    return Ok(false);
                }
                _ = tick.tick() => {}
            }
            let part = began.elapsed().as_secs_f64() / length.as_secs_f64();
            while let Some((_, act)) = script.next_if(|(at, _)| *at <= part) {
                self.act(*act).await?;
            }
            self.tell(tills).await;
            if last && part >= LAST_ORDER {
                return Ok(false);
            }
            if part >= 1.0 {
                return Ok(true);
            }
        }
    }

    async fn act(&mut self, act: Act) -> anyhow::Result<()> {
        match (act, &self.kafka) {
            (Act::Cut, Some(kafka)) => {
                kafka.cut()?;
                self.outages += 1;
                self.line_up = false;
                self.view.say("the line to Kafka is cut; orders go on being stored");
            }
            (Act::Mend, Some(kafka)) => {
                kafka.mend()?;
                self.line_up = true;
                self.view.say("the line to Kafka is back");
            }
            // The line to a real Kafka is not the demo's to cut.
            (Act::Cut | Act::Mend, None) => {}
            (Act::Kill, _) => {
                self.gateway.kill().await?;
                self.view.say("kill -9: the gateway is gone; terminals keep what is unanswered");
                let took = self.gateway.start().await?;
                self.view.say(&format!("the gateway is back after {} ms", took.as_millis()));
            }
        }
        Ok(())
    }

    async fn tell(&mut self, tills: &Tills) {
        for line in tills.take_news() {
            self.view.say(&line);
        }
        let counts = tills.counts();
        let delivered = self.centre.ledger(|seen| seen.delivered);
        let queued = tills.queued().await;
        self.view.figures(Figures { submitted: counts.submitted, stored: counts.stored, delivered, queued, line_up: self.line_up });
    }

    /// No more orders: waits until everything stored is at the centre, then stops the gateway and draws the ledger up.
    async fn settle(&mut self, mut tills: Tills) -> anyhow::Result<Ledger> {
        if !self.line_up {
            self.act(Act::Mend).await?;
        }
        self.view.say("no more orders; waiting until all that was stored has arrived");
        tills.finish().await;
        let began = Instant::now();
        while began.elapsed() < SETTLE_MAX {
            let ledger = Ledger::draw_up(&tills, &self.centre, self.outages, self.gateway.kills);
            self.tell(&tills).await;
            if ledger.has_arrived() && tills.queued().await == Some(0) {
                break;
            }
            tokio::time::sleep(TICK).await;
        }
        tills.stop();
        self.gateway.stop().await?;
        Ok(Ledger::draw_up(&tills, &self.centre, self.outages, self.gateway.kills))
    }
}
