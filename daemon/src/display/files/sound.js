// The kitchen's bell: it rings until somebody touches the screen or a key. Written in ES5.
//
// sound.begin(hint): `hint` gets a sentence while the browser lets no sound out, else "".
// sound.ring(why): "order", or "alarm", which is louder and wins. sound.ringing(): why it rings, or "".
var sound = (function () {
  "use strict";

  var EVERY_MS = { order: 2500, alarm: 1200 };
  // Hertz, seconds from the beginning, seconds.
  var TONES = {
    order: [[880, 0, 0.18], [1175, 0.2, 0.3]],
    alarm: [[620, 0, 0.22], [930, 0.25, 0.22], [620, 0.5, 0.22], [930, 0.75, 0.22]]
  };

  var tell = null;
  var context = null;
  var why = "";
  var timer = null;

  function isMute() {
    return !context || context.state !== "running";
  }

  function hint() {
    tell(context && !isMute() ? "" : texts.say(context ? "kitchen.sound_touch" : "kitchen.sound_none"));
  }

  function tone(hertz, from, length) {
    var oscillator = context.createOscillator();
    var volume = context.createGain();
    var start = context.currentTime + from;
    oscillator.type = "square";
    oscillator.frequency.value = hertz;
    volume.gain.setValueAtTime(0.25, start);
    volume.gain.exponentialRampToValueAtTime(0.001, start + length);
    oscillator.connect(volume);
    volume.connect(context.destination);
    oscillator.start(start);
    oscillator.stop(start + length);
  }

  function strike() {
    if (!isMute()) {
      TONES[why].forEach(function (each) {
        tone(each[0], each[1], each[2]);
      });
    }
    timer = window.setTimeout(strike, EVERY_MS[why]);
  }

  function show() {
    document.body.setAttribute("data-ringing", why);
  }

  function silence() {
    window.clearTimeout(timer);
    why = "";
    show();
  }

  function touched() {
    silence();
    if (context && context.state === "suspended" && context.resume) {
      context.resume();
    }
  }

  return {
    begin: function (hints) {
      tell = hints;
      var Context = window.AudioContext || window.webkitAudioContext;
      if (Context) {
        context = new Context();
        context.onstatechange = hint;
      }
      hint();
      ["touchend", "mousedown", "keydown"].forEach(function (kind) {
        document.addEventListener(kind, touched, true);
      });
    },
    ring: function (cause) {
      if (why !== "alarm" && why !== cause) {
        silence();
        why = cause;
        show();
        strike();
      }
    },
    ringing: function () {
      return why;
    }
  };
})();
