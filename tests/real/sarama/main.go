// Command sarama is the centre as Go services write it: it produces with Sarama's own choice of partitions, and reads everything back.
//
//	sarama produce BROKERS TOPIC < keys     a record for each line, the line as key, or what stands before a tab, and the value after it;
//	                                        nothing after the tab makes a tombstone
//	sarama read BROKERS TOPIC               prints each record that is there, as a line of JSON, partition by partition
//	sarama committed BROKERS TOPIC          the same for who reads committed records only; it writes a last record into each partition, and
//	                                        reads up to it, so it also shows that no open transaction holds readers back
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/IBM/sarama"
)

// batchMax records are on their way at once.
const batchMax = 1000

const readLimit = 60 * time.Second

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "sarama:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	config := sarama.NewConfig()
	config.Producer.Return.Successes = true
	switch {
	case len(args) == 3 && args[0] == "produce":
		return produce(strings.Split(args[1], ","), args[2], config)
	case len(args) == 3 && args[0] == "read":
		return read(strings.Split(args[1], ","), args[2], config)
	case len(args) == 3 && args[0] == "committed":
		config.Consumer.IsolationLevel = sarama.ReadCommitted
		config.Producer.Partitioner = sarama.NewManualPartitioner
		return committed(strings.Split(args[1], ","), args[2], config)
	default:
		return fmt.Errorf("usage: sarama produce|read|committed BROKERS TOPIC")
	}
}

func produce(brokers []string, topic string, config *sarama.Config) error {
	producer, err := sarama.NewSyncProducer(brokers, config)
	if err != nil {
		return err
	}
	defer producer.Close()
	var batch []*sarama.ProducerMessage
	send := func() error {
		defer func() { batch = batch[:0] }()
		return producer.SendMessages(batch)
	}
	keys := bufio.NewScanner(os.Stdin)
	for keys.Scan() {
		key, value, found := strings.Cut(keys.Text(), "\t")
		message := sarama.ProducerMessage{Topic: topic, Key: sarama.StringEncoder(key)}
		if !found {
			value = "from the centre"
		}
		if value != "" {
			message.Value = sarama.StringEncoder(value)
		}
		if batch = append(batch, &message); len(batch) == batchMax {
			if err := send(); err != nil {
				return err
			}
		}
	}
	if err := keys.Err(); err != nil {
		return err
	}
	return send()
}

// record is what the test compares; the gateway's records carry its headers.
type record struct {
	Partition int32             `json:"partition"`
	Offset    int64             `json:"offset"`
	Key       string            `json:"key"`
	Value     string            `json:"value"`
	Headers   map[string]string `json:"headers"`
}

func read(brokers []string, topic string, config *sarama.Config) error {
	client, err := sarama.NewClient(brokers, config)
	if err != nil {
		return err
	}
	defer client.Close()
	consumer, err := sarama.NewConsumerFromClient(client)
	if err != nil {
		return err
	}
	partitions, err := consumer.Partitions(topic)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for _, partition := range partitions {
		end, err := client.GetOffset(topic, partition, sarama.OffsetNewest)
		if err != nil {
			return err
		}
		if err := readPartition(consumer, topic, partition, end, json.NewEncoder(out)); err != nil {
			return err
		}
	}
	return nil
}

// endKey is the key of the last record that is read.
const endKey = "the end of what is read"

func committed(brokers []string, topic string, config *sarama.Config) error {
	client, err := sarama.NewClient(brokers, config)
	if err != nil {
		return err
	}
	defer client.Close()
	partitions, err := client.Partitions(topic)
	if err != nil {
		return err
	}
	producer, err := sarama.NewSyncProducerFromClient(client)
	if err != nil {
		return err
	}
	defer producer.Close()
	consumer, err := sarama.NewConsumerFromClient(client)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for _, partition := range partitions {
		last := sarama.ProducerMessage{Topic: topic, Partition: partition, Key: sarama.StringEncoder(endKey)}
		_, offset, err := producer.SendMessage(&last)
		if err != nil {
			return err
		}
		if err := readPartition(consumer, topic, partition, offset+1, json.NewEncoder(out)); err != nil {
			return err
		}
	}
	return nil
}

// readPartition prints the records before end.
func readPartition(consumer sarama.Consumer, topic string, partition int32, end int64, out *json.Encoder) error {
	if end == 0 {
		return nil
	}
	reader, err := consumer.ConsumePartition(topic, partition, sarama.OffsetOldest)
	if err != nil {
		return err
	}
	defer reader.Close()
	limit := time.After(readLimit)
	for {
		select {
		case message := <-reader.Messages():
			if string(message.Key) == endKey {
				if message.Offset+1 >= end {
					return nil
				}
				continue
			}
			headers := map[string]string{}
			for _, header := range message.Headers {
				headers[string(header.Key)] = string(header.Value)
			}
			read := record{partition, message.Offset, string(message.Key), string(message.Value), headers}
			if err := out.Encode(read); err != nil {
				return err
			}
			if message.Offset+1 >= end {
				return nil
			}
		case <-limit:
			return fmt.Errorf("partition %d: not read to offset %d within %s", partition, end, readLimit)
		}
	}
}
