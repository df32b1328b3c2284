use super::rig::{DEADLINE, Ingress, Rig, order};
use crate::config::{Framing, SerialPort};
use crate::terminal::serial::json;
use crate::terminal::{Ends, Orders, Reply, TerminalEvent, serial_ends};
use std::path::PathBuf;
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::sync::mpsc;
use tokio_serial::{SerialPort as _, SerialStream};

/// A cable between two ptys, for two programs that open a port each.
fn cable(folder: &TempDir) -> (PathBuf, PathBuf) {
    let end = |name: &str| {
        let (inner, outer) = SerialStream::pair().unwrap();
        let path = folder.path().join(name);
        std::os::unix::fs::symlink(outer.name().unwrap(), &path).unwrap();
        (inner, path)
    };
    let ((mut near, till), (mut far, gateway)) = (end("till"), end("gateway"));
    tokio::spawn(async move {
        // An end that nobody has opened is an error, not an end.
        loop {
            let _ = copy_bidirectional(&mut near, &mut far).await;
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    });
    (till, gateway)
}

async fn orders_are_answered_and_statuses_told(framing: Framing) {
    let (rig, folder) = (Rig::new(), tempfile::tempdir().unwrap());
    let (till, gateway) = cable(&folder);
    rig.seen().busy_each = 4;
    rig.change(order("mine", "till-1", 41));
    let port = SerialPort { terminal: "till-1".parse().unwrap(), path: gateway, baud: 115_200, framing };
    let ingress = Ingress::start(&rig, vec![port]);
    let ((give, orders), (events, mut told)) = (mpsc::channel(1), mpsc::channel(16));
    let (name, ends) = ("terminal-1".parse().unwrap(), Ends { orders, events });
    let terminal = match framing {
        Framing::Binary => serial_ends::start(&till, 115_200, name, ends),
        Framing::Json => json::start(&till, 115_200, name, ends),
    };
    tokio::spawn(async move {
        let mut source = Orders::new().unwrap();
        for _ in 0..20 {
            let _ = give.send(source.make()).await;
        }
    });
    let (mut stored, mut again, mut statuses) = (0, 0, 0);
    let watch = async {
        while stored < 20 || statuses == 0 {
            match told.recv().await.unwrap().1 {
                TerminalEvent::Answered { reply: Reply::Stored { duplicate: false, .. }, .. } => stored += 1,
                TerminalEvent::Resubmitted { .. } => again += 1,
                TerminalEvent::Status { order_id, status } => {
                    assert_eq!((order_id.as_str(), status.as_str()), ("mine", "CREATED"));
                    statuses += 1;
                }
                TerminalEvent::Submitted { .. } | TerminalEvent::Trouble { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::time::timeout(DEADLINE, watch).await.expect("all orders are answered in time");
    assert_eq!(rig.seen().stored.len(), 20);
    assert!(again > 0);
    drop(terminal);
    ingress.stop().await;
}

#[tokio::test]
async fn a_terminal_in_binary_frames_is_driven_like_the_others() {
    orders_are_answered_and_statuses_told(Framing::Binary).await;
}

#[tokio::test]
async fn a_terminal_in_json_lines_is_driven_like_the_others() {
    orders_are_answered_and_statuses_told(Framing::Json).await;
}
