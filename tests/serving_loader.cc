// Loads a version's folder as TensorFlow Serving does (its C++ loader, no Python in the process), replays the warm-up
// requests of the folder, then each of them again ROUNDS times, and prints what came out and how long it took.
//
//   serving_loader FOLDER ROUNDS [OP_LIBRARY]
//
// One line a request: signature, milliseconds of the first run of all, milliseconds of the first run after warm-up,
// median and 99th percentile of the rounds, and the first row of `item_id`, joined by commas ("-" where there is none).

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "google/protobuf/io/coded_stream.h"
#include "tensorflow/c/c_api.h"
#include "tensorflow/cc/saved_model/loader.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/framework/tensor.pb.h"
#include "tensorflow/core/public/session.h"

using tensorflow::Tensor;
using Named = std::vector<std::pair<std::string, Tensor>>;

struct Request {
  std::string signature;
  Named inputs;
};

// The length-delimited fields of a protobuf message: number and content.
std::vector<std::pair<int, std::string>> Fields(const std::string& message) {
  google::protobuf::io::CodedInputStream stream(reinterpret_cast<const uint8_t*>(message.data()), message.size());
  std::vector<std::pair<int, std::string>> fields;
  while (uint32_t tag = stream.ReadTag()) {
    uint32_t length = 0;
    std::string content;
    if ((tag & 7) != 2 || !stream.ReadVarint32(&length) || !stream.ReadString(&content, length)) break;
    fields.emplace_back(tag >> 3, std::move(content));
  }
  return fields;
}

std::string Field(const std::string& message, int number) {
  for (auto& [found, content] : Fields(message))
    if (found == number) return content;
  return "";
}

// tensorflow.serving.PredictionLog: predict_log (6) . request (1) . model_spec (1) . signature_name (3), inputs (2).
Request Parse(const std::string& record) {
  const std::string predict = Field(Field(record, 6), 1);
  Request request{Field(Field(predict, 1), 3), {}};
  for (auto& [number, entry] : Fields(predict)) {
    if (number != 2) continue;
    tensorflow::TensorProto proto;
    Tensor tensor;
    if (!proto.ParseFromString(Field(entry, 2)) || !tensor.FromProto(proto)) {
      std::cerr << "a warm-up request holds no tensor\n";
      std::exit(3);
    }
    request.inputs.emplace_back(Field(entry, 1), tensor);
  }
  return request;
}

// Records of a TFRecord file; its checksums are the manifest's business.
std::vector<Request> Read(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  std::vector<Request> requests;
  uint64_t length = 0;
  while (stream.read(reinterpret_cast<char*>(&length), 8)) {
    std::string record(length, '\0');
    stream.ignore(4);
    stream.read(record.data(), length);
    stream.ignore(4);
    requests.push_back(Parse(record));
  }
  return requests;
}

double Run(tensorflow::SavedModelBundle& bundle, const Request& request, std::map<std::string, Tensor>* outputs) {
  const auto& signature = bundle.GetSignatures().at(request.signature);
  Named feeds;
  for (auto& [name, tensor] : request.inputs) feeds.emplace_back(signature.inputs().at(name).name(), tensor);
  std::vector<std::string> names, fetches;
  for (auto& [name, info] : signature.outputs()) names.push_back(name), fetches.push_back(info.name());
  std::vector<Tensor> found;
  const auto start = std::chrono::steady_clock::now();
  const auto status = bundle.GetSession()->Run(feeds, fetches, {}, &found);
  const std::chrono::duration<double, std::milli> spent = std::chrono::steady_clock::now() - start;
  if (!status.ok()) {
    std::cerr << request.signature << ": " << status.ToString() << "\n";
    std::exit(4);
  }
  for (size_t i = 0; i < names.size(); ++i) (*outputs)[names[i]] = found[i];
  return spent.count();
}

std::string FirstRow(const std::map<std::string, Tensor>& outputs) {
  const auto found = outputs.find("item_id");
  if (found == outputs.end()) return "-";
  const auto ids = found->second.matrix<tensorflow::tstring>();
  std::string row;
  for (int64_t i = 0; i < ids.dimension(1); ++i) row += (i ? "," : "") + std::string(ids(0, i));
  return row;
}

int main(int argc, char** argv) {
  const std::string folder = argv[1];
  const int rounds = std::stoi(argv[2]);
  if (argc > 3) {
    TF_Status* status = TF_NewStatus();
    TF_LoadLibrary(argv[3], status);
    if (TF_GetCode(status) != TF_OK) {
      std::cerr << TF_Message(status) << "\n";
      return 2;
    }
  }
  tensorflow::SavedModelBundle bundle;
  const auto loaded =
      tensorflow::LoadSavedModel({}, {}, folder, {"serve"}, &bundle);
  if (!loaded.ok()) {
    std::cerr << loaded.ToString() << "\n";
    return 1;
  }
  const auto requests = Read(folder + "/assets.extra/tf_serving_warmup_requests");
  std::map<std::string, Tensor> outputs;
  std::vector<double> cold;
  for (auto& request : requests) cold.push_back(Run(bundle, request, &outputs));
  for (size_t i = 0; i < requests.size(); ++i) {
    outputs.clear();
    std::vector<double> spent;
    for (int round = 0; round < rounds; ++round) spent.push_back(Run(bundle, requests[i], &outputs));
    const double first = spent.front();
    std::sort(spent.begin(), spent.end());
    std::printf("%s\t%.3f\t%.3f\t%.3f\t%.3f\t%s\n", requests[i].signature.c_str(), cold[i], first, spent[rounds / 2],
                spent[rounds * 99 / 100], FirstRow(outputs).c_str());
  }
  return 0;
}
