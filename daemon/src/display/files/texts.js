// What a page says, in its language: TEXTS is that language's file, and the server names it in <html lang>. Written in ES5.
//
// texts.say(key, {name: value}): the text, each {name} in it filled; a number as the locale writes it.
// texts.word(group, word): the text of `group.word`, else the word itself: for statuses, codes and what else comes from outside.
// texts.number(count), .money(amount), .time(date), .moment(date), .duration(ms), .bytes(count): as the locale writes them.
// texts.link(path): the path with this page's own choice of language, if its address has one.
var texts = (function () {
  "use strict";

  var LOCALE = locale();
  // A browser without it writes 1234.5 and 18:30 in every language.
  var hasIntl = !!(window.Intl && window.Intl.NumberFormat && window.Intl.DateTimeFormat);

  // The browser knows the country too: in German, Zurich writes numbers as Berlin does not.
  function locale() {
    var language = document.documentElement.lang;
    var spoken = window.navigator.languages || [window.navigator.language || ""];
    for (var i = 0; i < spoken.length; i++) {
      // Some call themselves en-US@posix, which Intl refuses.
      if (spoken[i].split("-")[0] === language && /^[A-Za-z0-9-]+$/.test(spoken[i])) {
        return spoken[i];
      }
    }
    return language;
  }

  function two(number) {
    return (number < 10 ? "0" : "") + number;
  }

  function number(value, options) {
    return hasIntl ? Number(value).toLocaleString(LOCALE, options) : String(value);
  }

  function time(date) {
    return hasIntl ? date.toLocaleTimeString(LOCALE, { hour: "2-digit", minute: "2-digit" }) : two(date.getHours()) + ":" + two(date.getMinutes());
  }

  function day(date) {
    var plain = date.getFullYear() + "-" + two(date.getMonth() + 1) + "-" + two(date.getDate());
    return hasIntl ? date.toLocaleDateString(LOCALE, { year: "numeric", month: "2-digit", day: "2-digit" }) : plain;
  }

  function say(key, fields) {
    var text = TEXTS.hasOwnProperty(key) ? TEXTS[key] : key;
    return text.replace(/\{([a-z_]+)\}/g, function (whole, name) {
      var value = fields[name];
      return typeof value === "number" ? number(value) : String(value);
    });
  }

  return {
    say: say,
    word: function (group, word) {
      var key = group + "." + String(word).toLowerCase().replace(/[ -]/g, "_");
      return TEXTS.hasOwnProperty(key) ? TEXTS[key] : word;
    },
    number: number,
    money: function (amount) {
      var digits = (String(amount).split(".")[1] || "").length;
      return hasIntl ? number(amount, { minimumFractionDigits: Math.max(2, digits) }) : String(amount);
    },
    time: time,
    moment: function (date) {
      return day(date) + " " + time(date);
    },
    duration: function (ms) {
      var seconds = Math.round(ms / 1000);
      var minutes = Math.round(seconds / 60);
      if (seconds < 120) {
        return say("unit.seconds", { count: seconds });
      }
      return minutes < 120 ? say("unit.minutes", { count: minutes }) : say("unit.hours", { count: Math.round(minutes / 60) });
    },
    bytes: function (count) {
      if (count < 10240) {
        return say("unit.bytes", { count: count });
      }
      return count < 10485760 ? say("unit.kibibytes", { count: Math.round(count / 1024) }) : say("unit.mebibytes", { count: Math.round(count / 1048576) });
    },
    link: function (path) {
      var chosen = /[?&]lang=([a-z]+)/.exec(window.location.search);
      return chosen ? path + (path.indexOf("?") < 0 ? "?" : "&") + "lang=" + chosen[1] : path;
    }
  };
})();
